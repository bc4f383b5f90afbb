"""Real-time 3D human pose estimation and action recognition, and the fused operators below them.

`pyhar.ops` and `pyhar.nn` hold the operators, `pyhar.models` the network, `pyhar.data` the data sets,
`pyhar.training`, `pyhar.evaluation` and `pyhar.inference` what is done with them. Importing this
package imports none of them.
"""

__version__ = "0.1.0"
