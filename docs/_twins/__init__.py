"""The twin pages: both twins side by side, generated from their source and the measurements."""
