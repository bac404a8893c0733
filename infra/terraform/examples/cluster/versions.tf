terraform {
  required_version = ">= 1.11"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 6.0"
    }
  }

  # State in S3 lets several people apply in turn. Make the bucket once by hand, with versioning, and uncomment:
  # backend "s3" {
  #   bucket       = "your-terraform-state"
  #   key          = "trunkline/cluster.tfstate"
  #   region       = "us-east-1"
  #   encrypt      = true
  #   use_lockfile = true
  # }
}

provider "aws" {
  region = var.region

  default_tags {
    tags = { trunkline = var.name }
  }
}
