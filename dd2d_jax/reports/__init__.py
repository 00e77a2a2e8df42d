"""What was found, for people and programs: tables, JSON, figures, pages."""
