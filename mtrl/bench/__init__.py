"""Speed on this machine, as rows that anyone can measure again: mtrl bench update | envs."""
