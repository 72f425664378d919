"""Looking at runs while they go on, without taking part in them: nothing is written."""
