# What cannot work is refused before anything is created.

mock_provider "aws" {}

variables {
  name               = "trunk"
  region             = "us-east-1"
  availability_zones = ["us-east-1a"]
}

run "name_that_no_bucket_can_have" {
  command = plan

  variables {
    name = "My_Cluster"
  }

  expect_failures = [var.name]
}

run "range_too_small" {
  command = plan

  variables {
    cidr = "10.20.0.0/23"
  }

  expect_failures = [var.cidr]
}

run "range_larger_than_a_vpc" {
  command = plan

  variables {
    cidr = "10.0.0.0/8"
  }

  expect_failures = [var.cidr]
}

run "range_of_others" {
  command = plan

  variables {
    cidr = "8.8.0.0/16"
  }

  expect_failures = [var.cidr]
}

run "no_range" {
  command = plan

  variables {
    cidr = "10.20.0.0"
  }

  expect_failures = [var.cidr]
}

run "zone_of_another_region" {
  command = plan

  variables {
    availability_zones = ["eu-west-1a"]
  }

  expect_failures = [var.availability_zones]
}

run "zone_twice" {
  command = plan

  variables {
    availability_zones = ["us-east-1a", "us-east-1a"]
  }

  expect_failures = [var.availability_zones]
}

run "zone_for_a_region" {
  command = plan

  variables {
    region = "us-east-1a"
  }

  expect_failures = [var.region]
}
