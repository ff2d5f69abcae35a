"""What people and programs do through the console: each in one transaction with its line in the audit trail.

The pages and the API call the same functions, one module per noun.
"""
