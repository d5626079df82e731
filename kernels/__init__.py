"""One operation per file: the public function picks the path, beside the CPU path and a plain reference."""
