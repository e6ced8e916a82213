"""What users can have done: attach, detach and link endpoints, create and remove networks; and who cleans up."""
