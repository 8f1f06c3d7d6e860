"""The command `cvmfs-publisher`: one file a command, which only asks and shows."""
