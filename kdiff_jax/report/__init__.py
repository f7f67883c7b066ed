"""What a run leaves for people: logs, progress, tables, pictures, one HTML page.

Each module stands on its own; import it by name. Nothing here measures anything.
"""
