"""What run folders hold, read with damage reported."""
