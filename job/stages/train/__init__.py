"""Training one pack: built, resumed, updated, evaluated and committed."""
