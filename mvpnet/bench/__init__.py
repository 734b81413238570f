"""`mvpnet bench`: measure the data path between the ranks of a real launch, with synthetic guests and no qemu.

command    the verb: options, who leads and who follows
workloads  what is measured, and in which steps; rank 0 runs it
node       a rank's part: its link, its switch, its guest, and the asking and answering between ranks
guest      the program that plays a guest, one a rank
report     the tables
"""
