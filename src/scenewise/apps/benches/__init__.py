"""What ``scenewise bench`` measures, one subject a file."""
