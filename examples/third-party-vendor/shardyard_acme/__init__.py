"""An imaginary accelerator, the Acme X1, as its vendor would bring it to Shardyard: nothing here is part of Shardyard."""
