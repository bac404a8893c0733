terraform {
  required_version = ">= 1.11"

  required_providers {
    aws = {
      source = "hashicorp/aws"
      # 4.0 for the EFA interfaces of launch templates; all else stands in 3.39 too, with which the tests apply it
      version = ">= 4.0, < 7.0"
    }
  }
}
