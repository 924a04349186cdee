"""What people look at: figures, pictures and pages."""
