"""Published grids as sweep files; `foretune sweep NAME` runs one."""
