"""Features: the schema, and the way from raw values to the arrays that a tower reads."""
