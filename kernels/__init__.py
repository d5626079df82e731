"""One operation a file: the public function picks the path; beside it the CPU path and a plain reference."""
