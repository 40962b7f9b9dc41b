"""Documents that tell a platform how to run the job. Pure; imports neither torch nor any cloud library."""
