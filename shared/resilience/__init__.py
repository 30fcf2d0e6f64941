"""What keeps a component's failure from becoming everybody's: deadlines, a circuit breaker, retries within a budget. Usable around anything.

The order around a call is retry(breaker(timeout(call))): a time limit inside, so that the breaker sees a hung call as a failure before the
caller's own deadline cancels it; the breaker inside the retry, so that every attempt counts and none is made while it is open.
"""
