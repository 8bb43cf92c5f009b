"""What is read back from a run directory, checked: schemas of its files, answers, exports."""
