"""Reading and writing models in the formats of other projects: one module or package per format."""
