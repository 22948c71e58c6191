"""Models whose Hessian is known in closed form."""
