terraform {
  required_version = ">= 1.11"

  required_providers {
    aws = {
      source = "hashicorp/aws"
      # arguments that 3.39 knows too: the newest real provider that can be had without HashiCorp's registry, so the tests apply with it
      version = ">= 3.39, < 7.0"
    }
  }
}
