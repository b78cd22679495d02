"""What frameworks and tools find Penstock by: Django, Flask, PasteDeploy, pytest.

Nothing else of Penstock imports these modules, and each imports its framework.
"""
