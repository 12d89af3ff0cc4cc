"""`python -m alexnet_deploy`: the command line, where its script is not on the path."""

from alexnet_deploy.cli import main

main(prog_name="alexnet-deploy")
