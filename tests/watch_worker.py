"""One process that meets others for ever; started by `watch_test.py`.

python watch_worker.py COORDINATOR COUNT ID SILENT BEAT JOINING
"""

import sys
import time

from jaxdistill import dist
from jaxdistill.dist import hosts, watch


def main():
  coordinator, count, process = sys.argv[1:4]
  watch.SILENT, watch.BEAT = map(float, sys.argv[4:6])
  hosts.JOINING = int(sys.argv[6])
  dist.start_hosts(coordinator, int(count), int(process), 'start again')
  while True:
    dist.agree_max(1)
    print('met', flush=True)
    time.sleep(0.2)


if __name__ == '__main__':
  main()
