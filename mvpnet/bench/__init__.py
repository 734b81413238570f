"""`mvpnet bench`: measure the data path between the ranks of a real launch, with synthetic guests and no qemu.

session    run rank 0 and the other ranks; the verb itself is `cli.bench`
workloads  the measurements and their steps, on rank 0
node       one rank: its link, switch and guest, and the messages between ranks
messages   orders for guests, and their answers
guest      the program in a guest's place, one per rank
report     the tables
"""
