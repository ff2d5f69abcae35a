"""`make demo`: the node's main job, shown end to end on simulated studies.

`studies` says what is sent and what must come out, `downstream` is the C-STORE SCP that stands for an AI model,
`__main__` runs the story and checks it. Lives beside the simulator because `iap_node` never imports `training`.
"""
