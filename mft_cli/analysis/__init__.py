"""`mft analyze`: what a model's predictions depend on, and the loss around its weights."""
