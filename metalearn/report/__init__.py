"""Tables and figures from the folders of finished runs; nothing here runs anything again."""
