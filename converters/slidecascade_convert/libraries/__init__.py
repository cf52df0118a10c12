"""Networks of published libraries, from the files that each library's own saver writes."""
