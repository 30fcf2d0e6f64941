"""The rows of the fault matrix, by what the fault strikes. Each is a coroutine that tries one trial."""
