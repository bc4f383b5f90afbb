"""How good a network is: measures, protocols, results, and the report. Start at
`pyhar.evaluation.run.evaluate_and_report`.
"""
