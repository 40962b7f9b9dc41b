"""What a platform is told about the job. Pure; imports neither torch nor any cloud library."""
