"""What people who do this job have and report: a case each, its source in the docstring, its values
made up."""
