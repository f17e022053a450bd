"""The only code that ships to a device: imports numpy and one inference engine."""
