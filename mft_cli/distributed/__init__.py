"""Several processes as one computation: ranks, ZeRO, starting them."""
