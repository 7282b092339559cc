"""From a validated configuration to an exported model: run -> setup -> loop -> engine."""
