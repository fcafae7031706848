"""Local pages: they show files and keep what people say there. They import no model, and load nothing from outside."""
