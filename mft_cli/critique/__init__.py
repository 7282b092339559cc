"""`mft critique`: questions -> a base model's solutions -> a teacher's critiques -> verified training rows."""
