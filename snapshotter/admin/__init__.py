"""The daemon's facts, for the commands: values, and the service that hands them out."""
