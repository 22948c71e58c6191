"""Execute, judge and render the chapters of the book."""
