"""OpenAI's responses: requests as jobs, and jobs as response objects and their events."""
