# Machines are not reachable from outside, whatever else is configured.

mock_provider "aws" {}

variables {
  name               = "trunk"
  region             = "us-east-1"
  availability_zones = ["us-east-1a", "us-east-1b"]
}

run "nothing_comes_in" {
  assert {
    condition     = alltrue([for subnet in concat(aws_subnet.private, [aws_subnet.nat]) : subnet.map_public_ip_on_launch == false])
    error_message = "a subnet gives machines public addresses"
  }

  assert {
    condition     = aws_route.private_to_nat.nat_gateway_id == aws_nat_gateway.this.id && aws_route.private_to_nat.gateway_id == null
    error_message = "the private subnets' way out is not the NAT gateway"
  }

  assert {
    condition     = length(aws_route_table_association.private) == 2 && alltrue([for association in aws_route_table_association.private : association.route_table_id == aws_route_table.private.id])
    error_message = "a private subnet is not on the private route table"
  }

  assert {
    condition     = length(coalesce(aws_default_security_group.closed.ingress, [])) == 0 && length(coalesce(aws_default_security_group.closed.egress, [])) == 0
    error_message = "the VPC's default security group lets something through"
  }

  assert {
    condition     = aws_vpc_endpoint.s3.vpc_endpoint_type == "Gateway" && aws_vpc_endpoint.s3.service_name == "com.amazonaws.us-east-1.s3"
    error_message = "no gateway endpoint for S3"
  }

  assert {
    condition     = contains(aws_vpc_endpoint.s3.route_table_ids, aws_route_table.private.id)
    error_message = "the private route table does not go through the S3 endpoint"
  }

  assert {
    condition     = join(" ", concat(aws_subnet.private[*].cidr_block, [aws_subnet.nat.cidr_block])) == "10.20.0.0/19 10.20.32.0/19 10.20.224.0/19"
    error_message = "subnets are ${join(", ", concat(aws_subnet.private[*].cidr_block, [aws_subnet.nat.cidr_block]))}"
  }

  assert {
    condition     = output.head_private_ip == "10.20.0.10"
    error_message = "the head's address is ${output.head_private_ip}"
  }
}

run "smallest_range" {
  variables {
    cidr = "10.9.4.0/22"
  }

  assert {
    condition     = aws_subnet.private[1].cidr_block == "10.9.4.128/25" && output.head_private_ip == "10.9.4.10"
    error_message = "subnets of a /22 are wrong"
  }
}
