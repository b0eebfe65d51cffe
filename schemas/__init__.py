"""Messages, configuration and errors: what the rest of Eddy agrees on. Imports no other part."""
