"""Teachers: frozen models, or what was stored of one, that say what a student should learn."""
