"""A stand-in for `cvmfs_server` on the machine that publishes: real overlay unions, plain directories as revisions."""
