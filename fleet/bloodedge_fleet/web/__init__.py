"""The fleet's page: it shows and changes nothing; roll-outs are begun on the command line."""
