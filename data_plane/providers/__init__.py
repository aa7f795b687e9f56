"""The providers' dialects: what a body asks for and what a reply used. Pure: values in, values out."""
