terraform {
  required_version = ">= 1.11"

  required_providers {
    aws = {
      source = "hashicorp/aws"
      # 5.0 for the domain of addresses; all else stands in 3.39 too, with which the tests apply it
      version = ">= 5.0, < 7.0"
    }
  }
}
