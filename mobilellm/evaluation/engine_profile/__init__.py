"""Measures models in the engines of devices: start, speed and memory, in a process for each.

The files of this package, and those that they import, need no package but that of the engine. They
are copied into bundles, which measure on other devices (`pipeline.profile_bundle`).
"""
