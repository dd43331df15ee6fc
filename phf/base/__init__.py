"""Ground of the other packages: errors, atomic files, locks, resumable work, estimates with intervals."""
